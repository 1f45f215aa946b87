"""When sum.golang.org had how many records, as shipped with a release: what is older than it is proven so.

Each pair is the number of a version's record and an epoch time at which it was in the log: two days after
the version's commit. The versions are such as proxies fetch within the hour of their release, of five
publishers (golang.org/x, google.golang.org/api, k8s.io/api, aws-sdk-go-v2, golang.org/toolchain), looked up
in the log (``lookup/MODULE@VERSION``), with the ``Time`` of their ``.info``. That two days are enough is an
assumption. It is borne out by the numbers, which rise with the times without exception; one version that had
been looked up late would stand out. What went into the log when it was opened, in 2019, had been released
long before, and is left out.

To refresh them for a release: look up versions that have been released since, leave out what was committed
within the last two days, and put their pairs behind the last one. A test holds them to be in order.
"""

from __future__ import annotations

from typing import Final

from goproxy_vm.protocol.growth import Growth, NotedHead

PAIRS: Final = (
    (172_364, 1_567_889_537),  # google.golang.org/api@v0.10.0
    (529_990, 1_576_191_689),  # k8s.io/api@v0.17.0
    (546_586, 1_576_786_314),  # google.golang.org/api@v0.15.0
    (833_951, 1_583_446_116),  # google.golang.org/api@v0.20.0
    (1_491_187, 1_596_728_583),  # google.golang.org/api@v0.30.0
    (2_820_128, 1_613_323_561),  # google.golang.org/api@v0.40.0
    (5_838_568, 1_625_252_265),  # google.golang.org/api@v0.50.0
    (7_476_118, 1_635_637_908),  # google.golang.org/api@v0.60.0
    (10_445_541, 1_651_790_090),  # k8s.io/api@v0.24.0
    (10_591_892, 1_652_979_843),  # google.golang.org/api@v0.80.0
    (13_560_720, 1_666_292_344),  # google.golang.org/api@v0.100.0
    (13_576_612, 1_666_366_121),  # golang.org/x/net@v0.1.0
    (14_296_150, 1_670_530_095),  # golang.org/x/net@v0.4.0
    (15_588_026, 1_676_567_062),  # golang.org/x/net@v0.7.0
    (17_221_789, 1_682_621_393),  # google.golang.org/api@v0.120.0
    (17_404_792, 1_683_390_368),  # golang.org/x/net@v0.10.0
    (18_820_931, 1_691_097_962),  # golang.org/x/net@v0.13.0
    (19_058_706, 1_692_310_443),  # k8s.io/api@v0.28.0
    (19_966_350, 1_697_125_519),  # golang.org/x/net@v0.17.0
    (20_515_563, 1_699_481_655),  # google.golang.org/api@v0.150.0
    (20_853_667, 1_701_278_777),  # golang.org/x/net@v0.19.0
    (24_932_019, 1_712_338_220),  # golang.org/x/net@v0.23.0
    (25_199_892, 1_713_566_339),  # k8s.io/api@v0.30.0
    (25_562_825, 1_715_185_488),  # golang.org/x/net@v0.25.0
    (25_667_225, 1_715_532_555),  # google.golang.org/api@v0.180.0
    (28_866_195, 1_723_138_776),  # golang.org/x/net@v0.28.0
    (30_831_603, 1_728_682_341),  # google.golang.org/api@v0.200.0
    (31_517_323, 1_731_254_847),  # golang.org/x/net@v0.31.0
    (32_702_338, 1_734_126_696),  # k8s.io/api@v0.32.0
    (33_264_760, 1_736_352_015),  # golang.org/x/net@v0.34.0
    (34_390_694, 1_738_945_320),  # google.golang.org/api@v0.220.0
    (35_074_006, 1_741_376_472),  # golang.org/x/net@v0.37.0
    (36_896_152, 1_746_647_574),  # golang.org/x/net@v0.40.0
    (39_520_827, 1_751_643_913),  # google.golang.org/api@v0.240.0
    (41_740_252, 1_754_769_366),  # golang.org/x/net@v0.43.0
    (42_676_618, 1_756_497_224),  # k8s.io/api@v0.34.0
    (44_088_892, 1_758_987_749),  # google.golang.org/api@v0.250.0
    (44_815_726, 1_760_123_896),  # golang.org/x/net@v0.46.0
    (46_249_243, 1_763_060_131),  # golang.org/x/net@v0.47.0
    (47_957_443, 1_765_402_889),  # golang.org/x/net@v0.48.0
    (48_271_010, 1_766_183_416),  # k8s.io/api@v0.35.0
    (48_903_278, 1_768_407_311),  # golang.org/x/net@v0.49.0
    (48_963_915, 1_768_581_488),  # google.golang.org/api@v0.260.0
    (49_803_867, 1_770_829_887),  # golang.org/x/net@v0.50.0
    (50_955_109, 1_773_242_102),  # google.golang.org/api@v0.270.0
    (51_119_259, 1_773_448_542),  # golang.org/x/net@v0.52.0
    (52_812_824, 1_777_055_199),  # k8s.io/api@v0.36.0
    (53_820_027, 1_778_443_368),  # golang.org/x/net@v0.54.0
    (54_386_189, 1_779_387_953),  # google.golang.org/api@v0.280.0
    (55_468_105, 1_781_197_122),  # golang.org/x/net@v0.56.0
    (57_031_050, 1_783_717_334),  # golang.org/x/net@v0.57.0
    (57_858_955, 1_784_911_209),  # google.golang.org/api@v0.290.0
    (59_638_935, 1_786_729_292),  # golang.org/x/net@v0.58.0
    (60_893_537, 1_787_946_643),  # k8s.io/api@v0.37.0
    (61_126_469, 1_788_109_111),  # google.golang.org/api@v0.295.0
    (61_743_986, 1_788_465_803),  # golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64
    (62_575_366, 1_789_067_882),  # golang.org/x/net@v0.59.0
    (66_237_857, 1_791_049_177),  # google.golang.org/api@v0.300.0
    (67_226_349, 1_791_652_978),  # golang.org/x/net@v0.60.0
    (67_319_748, 1_791_657_083),  # k8s.io/api@v0.38.0-alpha.2
    (67_576_824, 1_791_738_444),  # golang.org/x/net@v0.61.0
    (69_455_146, 1_792_601_765),  # google.golang.org/api@v0.305.0
    (69_478_030, 1_792_621_236),  # golang.org/toolchain@v0.0.1-go1.27.3.linux-amd64
    (70_195_880, 1_793_300_416),  # golang.org/x/net@v0.62.0
    (70_316_476, 1_793_386_503),  # google.golang.org/api@v0.310.0
    (70_885_361, 1_794_113_365),  # k8s.io/api@v0.38.0-beta.0
    (70_921_970, 1_794_167_134),  # github.com/aws/aws-sdk-go-v2@v1.47.8
    (71_133_112, 1_794_510_921),  # github.com/aws/aws-sdk-go-v2@v1.48.0
    (71_202_863, 1_794_604_535),  # google.golang.org/api@v0.313.0
    (71_280_874, 1_794_690_194),  # google.golang.org/api@v0.314.0
    (71_338_279, 1_794_764_902),  # google.golang.org/api@v0.315.0
)
"""Record numbers and epoch seconds, both rising."""


def shipped() -> Growth:
    """The same as sizes of the log: the records below each number are at least as old as its time says."""
    return Growth(NotedHead(number, float(at)) for number, at in PAIRS)
