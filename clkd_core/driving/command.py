"""Drive the synthetic world in closed loop: VLM, planner, controller, vehicle, at 10 Hz.

`clkd drive --scenario all --out DIR` drives scenes that nobody trained on with the shipped student
and writes, for each drive, a film, every step as JSON and CSV, and a table of all. Others follow
the world's script whatever the vehicle does. Answers come as late as `--latencies FILE` says,
which `--measure-latencies FILE` measures on this device: the same seed and file give the same
drive. Interrupted, it goes on where it was. `--driver expert` follows the script and checks the
controller; `--driver constant-velocity` keeps going.
"""

import argparse
from pathlib import Path

from clkd_core.config import load_config
from clkd_core.driving.campaign import Campaign, drive_all, identity_of, write_summary
from clkd_core.driving.config import DRIVERS, DriveConfig
from clkd_core.driving.drivers import load_driver
from clkd_core.driving.results.record import Record
from clkd_core.driving.results.table import NOTES, text_lines
from clkd_core.driving.stage.scenarios import plan_scenarios, scenario_names
from clkd_core.driving.timing.latencies import (
    NO_LATENCIES,
    Latencies,
    latency_line,
    load_latencies,
    save_latencies,
)
from clkd_core.errors import ConfigError
from clkd_core.files import shipped_student

_LATENCIES_FILE = "latencies.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd drive``."""
    parser.add_argument(
        "--scenario",
        nargs="+",
        default=["all"],
        help="names, or all, regular, corner (default all)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another one gives other scenes")
    parser.add_argument("--count", type=int, default=2, help="drives per scenario, default 2")
    parser.add_argument(
        "--driver", nargs="+", choices=DRIVERS, default=["student"], help="default student"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="student with planner; default the shipped one"
    )
    parser.add_argument("--out", type=Path, help="folder for drives and tables")
    parser.add_argument(
        "--latencies",
        type=Path,
        help=f"file to replay; default {_LATENCIES_FILE} in --out, measured if it is not there",
    )
    parser.add_argument(
        "--measure-latencies",
        type=Path,
        metavar="FILE",
        help="measure this device into FILE and drive nothing",
    )
    parser.add_argument("--latency-frames", type=int, default=200, help="to measure, default 200")
    parser.add_argument("--no-video", action="store_true", help="write no films")
    parser.add_argument("--config", type=Path, help="YAML file: vehicle, controller, image size")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:N]")
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch and decoding, default 1 as in the nodes"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, or drive and print the tables; 0.

    Raises:
        ConfigError: a word is missing or wrong.
        CheckpointError: the student or its planner cannot be used.
        DataError: a file cannot be read or written.
    """
    _check(args)
    args.checkpoint = args.checkpoint or shipped_student()
    config = load_config(DriveConfig, args.config) if args.config else DriveConfig()
    if args.measure_latencies:
        _measure(args, config, args.measure_latencies)
        return 0
    return _drive(args, config)


def _check(args: argparse.Namespace) -> None:
    if args.measure_latencies is None and args.out is None:
        raise ConfigError("--out is missing, expected a folder for the drives")
    if args.latency_frames < 1:
        raise ConfigError(f"latency-frames is {args.latency_frames}, expected at least 1")


def _drive(args: argparse.Namespace, config: DriveConfig) -> int:
    names = dict.fromkeys(name for word in args.scenario for name in scenario_names(word))
    campaign = Campaign(
        specs=plan_scenarios(list(names), seed=args.seed, count=args.count),
        config=config,
        out=args.out,
        films=not args.no_video,
    )
    records: dict[str, list[Record]] = {}
    notes = [*NOTES, f"seed {args.seed}, {args.count} drives per scenario"]
    for name in dict.fromkeys(args.driver):
        records[name], note = _drive_with(args, name, campaign)
        notes.append(note)
    for driver, rows in write_summary(args.out, records, notes).items():
        print("\n".join([f"{driver}:", *(f"  {line}" for line in text_lines(rows))]))
    print("\n".join(notes))
    print(f"wrote {args.out}: a folder per drive, summary.json, summary.md")
    return 0


def _drive_with(
    args: argparse.Namespace, name: str, campaign: Campaign
) -> tuple[list[Record], str]:
    """The drives of one driver, and what to say about its latencies."""
    if name != "student":
        driver = load_driver(name, args.checkpoint)
        records = drive_all(campaign, driver, NO_LATENCIES, checkpoint="")
        return records, f"{name}: plans are there at once, no decisions"
    latencies = _latencies(args, campaign.config)
    driver = load_driver(name, args.checkpoint, device=args.device, threads=args.threads)
    identity = identity_of(args.checkpoint)
    records = drive_all(campaign, driver, latencies, checkpoint=identity)
    return records, f"{name}: {latency_line(latencies)}"


def _latencies(args: argparse.Namespace, config: DriveConfig) -> Latencies:
    if args.latencies is not None:
        return load_latencies(args.latencies)
    path = args.out / _LATENCIES_FILE
    return load_latencies(path) if path.is_file() else _measure(args, config, path)


def _measure(args: argparse.Namespace, config: DriveConfig, path: Path) -> Latencies:
    from clkd_core.driving.timing.measure import measure_latencies  # brings torch along

    latencies = measure_latencies(
        args.checkpoint,
        config,
        frames=args.latency_frames,
        device=args.device,
        threads=args.threads,
    )
    save_latencies(latencies, path)
    print(f"{path}: {latency_line(latencies)}")
    return latencies
