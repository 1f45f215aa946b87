"""The admin API's token: where it comes from, how it is made and kept, who is let in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from goproxy_vm.admin.auth import Guard, admin_token
from goproxy_vm.config import File, Settings, load
from goproxy_vm.config.token import read_token
from goproxy_vm.errors import ConfigError, StartError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "tmp").mkdir()
    return Settings(cache_dir=tmp_path)


def test_token_is_made_once(settings: Settings) -> None:
    token = admin_token(settings)
    path = settings.cache_dir / "admin.token"
    assert path.read_text() == f"{token}\n"
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list((settings.cache_dir / "tmp").iterdir()) == []
    assert admin_token(settings) == token
    path.unlink()
    assert admin_token(settings) != token


def test_token_is_private_whatever_the_umask(settings: Settings) -> None:
    before = os.umask(0)
    try:
        admin_token(settings)
    finally:
        os.umask(before)
    path = settings.cache_dir / "admin.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    admin_token(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_settings_come_first(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("  from-the-file-that-is-named \n")
    environ = {"CACHE_DIRECTORY": str(tmp_path / "none"), "GOPROXY_VM_ADMIN_TOKEN_FILE": str(file)}
    assert admin_token(load({}, environ, None).settings) == "from-the-file-that-is-named"
    environ["GOPROXY_VM_ADMIN_TOKEN"] = "from-the-environment"
    assert admin_token(load({}, environ, None).settings) == "from-the-environment"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it holds no token"),
        (b" \n", "it holds no token"),
        (b"\xff", "it holds no token"),
        (b"two words", "no token: it holds a space or another character that no header carries"),
        (b"***", "no token: it is what config show prints instead of it"),
        (b"x" * 2000, "or is too long"),
        (b"x", "no token: it is shorter than 16 characters"),
        (b"x" * 15, "no token: it is shorter than 16 characters"),
    ],
)
def test_file_that_holds_no_token(settings: Settings, content: bytes, reason: str) -> None:
    path = settings.cache_dir / "admin.token"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_token(path)
    assert reason in caught.value.sentence
    named = Settings(cache_dir=settings.cache_dir, admin_token_file=path)
    for each, expected in ((settings, str(path)), (named, f"admin_token_file: {path}")):
        with pytest.raises(ConfigError) as refused:
            admin_token(each)
        assert refused.value.sentence.startswith(f"{expected}: ")
        assert "two words" not in refused.value.sentence
    assert path.read_bytes() == content


def test_file_that_cannot_be_read(settings: Settings, tmp_path: Path) -> None:
    named = Settings(cache_dir=settings.cache_dir, admin_token_file=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"^admin_token_file: .*/none cannot be read: No such file"):
        admin_token(named)
    (tmp_path / "tmp").rmdir()
    (tmp_path / "tmp").touch()
    with pytest.raises(StartError, match="Not a directory"):
        admin_token(settings)


def test_token_is_never_shown(tmp_path: Path) -> None:
    environ = {"CACHE_DIRECTORY": str(tmp_path), "GOPROXY_VM_ADMIN_TOKEN": "1234567890abcdef"}
    loaded = load({}, environ, None)
    assert loaded.settings.admin_token == "1234567890abcdef"
    assert loaded.origins["admin_token"].value == "***"
    assert load({}, {"CACHE_DIRECTORY": str(tmp_path)}, None).origins["admin_token"].value == ""
    file = tmp_path / "x.toml"
    for text in ("'se cret'", "['secret']", "1234", "{secret = 1}"):
        file.write_text(f"admin_token = {text}")
        with pytest.raises(ConfigError) as caught:
            load({}, {"CACHE_DIRECTORY": str(tmp_path)}, File(file, "flag --config"))
        assert caught.value.sentence.startswith('admin_token: "***" (file ')
        assert "cret" not in caught.value.sentence.replace("(file", "")
        assert "1234" not in caught.value.sentence


def test_a_short_token_is_refused_by_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'^admin_token: "\*\*\*" .* shorter than 16 characters'):
        load({}, {"CACHE_DIRECTORY": str(tmp_path), "GOPROXY_VM_ADMIN_TOKEN": "x"}, None)
    load({}, {"CACHE_DIRECTORY": str(tmp_path), "GOPROXY_VM_ADMIN_TOKEN": "x" * 16}, None)


def test_what_config_show_prints_is_no_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is what config show prints instead of it"):
        load({}, {"CACHE_DIRECTORY": str(tmp_path), "GOPROXY_VM_ADMIN_TOKEN": "***"}, None)


def test_guard() -> None:
    with pytest.raises(ValueError, match="empty token"):
        Guard("")
    guard = Guard("t")
    assert guard.admits(["Bearer t"])
    assert not guard.admits([])
    assert not guard.admits(["Bearer "])
    assert not guard.admits(["Bearer t", "Bearer t"])
    assert not guard.admits(["Basic t"])
    assert not hasattr(guard, "token")


def test_users_need_no_token() -> None:
    guard = Guard("x" * 16, users={0, 7})
    assert guard.admits((), 7)
    assert not any(guard.admits((), user) for user in (1, None))
    assert not Guard("x" * 16).admits((), 0)
