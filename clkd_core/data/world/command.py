"""``clkd world``: write a synthetic driving set and a picture of it."""

import argparse
import time
from pathlib import Path

from clkd_core.config import load_config
from clkd_core.data.sidecar import load_keyframes
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.generate import Rendered, write_world
from clkd_core.data.world.overview import share_lines, whole_scenes


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
    written = write_world(config, args.out)
    keyframes = load_keyframes(args.out, config.version, "train")
    for line in share_lines(keyframes):
        print(line)
    print(rate_line(written.rendered, config))
    took_s = time.monotonic() - begin_s
    instants = len(whole_scenes(keyframes))
    regions = len(keyframes) - instants
    made = f"{len(written.drives)} drives, {instants} training keyframes, {regions} red boxes"
    print(f"world: {made} in {took_s:.0f} s: {args.out}")
    return 0


def rate_line(rendered: Rendered, config: WorldConfig) -> str:
    """How fast the set was rendered; nothing was where an interrupted run had done all."""
    if not rendered.keyframes:
        return "rate: every drive was there already"
    size = f"{config.width_px} x {config.height_px}"
    per_s = f"{rendered.keyframes / rendered.took_s:.1f} keyframes per second of six views {size}"
    of_core = f"{rendered.keyframes / rendered.cpu_s:.1f} per second of one core"
    return f"rate: {per_s} with workers={rendered.workers}; {of_core}"
