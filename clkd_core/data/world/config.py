"""All knobs of the synthetic world."""

from dataclasses import dataclass

CORNER_CASES: tuple[str, ...] = (
    "night",
    "blocked_lane",
    "jaywalker",
    "hidden_sign",
    "fog",
    "animal",
    "rain_glare",
)
"""Names a corner-case drive may carry as ``case_name``; all others are ``regular``."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What ``clkd world`` makes. The same values give the same bytes.

    Raises:
        ValueError: a number is out of its range.
    """

    seed: int = 1
    """Every drive's own seed follows from this, the split and the drive's number."""
    version: str = "v1.0-clkd"
    """Folder of the nuScenes tables below the set's root."""
    train_drives: int = 126
    """Drives of the training split."""
    val_drives: int = 13
    """Drives of the validation split; their layouts never occur in training."""
    val_on_disk: bool = False
    """Write the validation split too; bags render it themselves."""
    regular_per_corner: float = 17.0
    """Regular drives for each corner-case drive in training; > 0."""
    val_corner_frac: float = 0.5
    """Share of corner-case drives in validation, 0..1."""
    drive_s: float = 8.5
    """Recorded length of a drive [s]; a multiple of 0.5. Another 3 s are simulated for labels."""
    width_px: int = 640
    """Image width; nuScenes has 1600."""
    height_px: int = 360
    """Image height; nuScenes has 900. The lens is scaled with the width."""
    jpeg_quality: int = 85
    """OpenCV's JPEG quality, 1..100."""
    region_questions: bool = True
    """Ask about a part of a view, too, in corner cases: a keyframe of its own without a plan."""
    workers: int = 0
    """Processes that render; 0 means one per core."""

    def __post_init__(self) -> None:
        if self.train_drives < 1 or self.val_drives < 1:
            raise ValueError("train_drives and val_drives must be at least 1")
        if self.regular_per_corner <= 0 or not 0 <= self.val_corner_frac <= 1:
            raise ValueError("regular_per_corner must be > 0 and val_corner_frac in 0..1")
        if self.drive_s < 2 or (self.drive_s * 2) % 1:
            raise ValueError("drive_s must be a multiple of 0.5 and at least 2")
        if self.width_px < 64 or self.height_px < 36 or not 1 <= self.jpeg_quality <= 100:
            raise ValueError("images must be at least 64 x 36 and jpeg_quality in 1..100")
        if self.workers < 0:
            raise ValueError("workers must be 0 or more")
