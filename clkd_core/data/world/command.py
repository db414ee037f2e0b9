"""``clkd world``: write a synthetic driving set and a picture of it."""

import argparse
import time
from pathlib import Path

from clkd_core.config import load_config
from clkd_core.data.sidecar import load_keyframes
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.generate import write_world
from clkd_core.data.world.overview import share_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument(
        "--config", type=Path, required=True, help="a file like config/world/demo.yaml"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the set, replaced if there"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a config value")


def run(args: argparse.Namespace) -> int:
    """Make the set; print what it is made of and where it is.

    Raises:
        ConfigError: the config does not say what is needed.
        DataError: the folder cannot be written.
    """
    begin_s = time.monotonic()
    config = load_config(WorldConfig, args.config, args.overrides)
    drives = write_world(config, args.out)
    keyframes = load_keyframes(args.out, config.version, "train")
    for line in share_lines(keyframes):
        print(line)
    took_s = time.monotonic() - begin_s
    made = f"{len(drives)} drives, {len(keyframes)} training keyframes in {took_s:.0f} s"
    print(f"world: {made}: {args.out}")
    return 0
