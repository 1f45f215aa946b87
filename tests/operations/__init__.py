"""What operators install: units, alerts, dashboards, containers. Each is held to the code."""
