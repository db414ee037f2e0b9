"""The failures a user can cause or repair; anything else that is raised is a defect of ours."""


class ClkdError(Exception):
    """Base of every expected failure; commands print it on one line and exit with code 2."""


class ConfigError(ClkdError):
    """A configuration file, command line or parameter does not say what is needed."""


class CheckpointError(ClkdError):
    """A saved model is missing, damaged, of another version or of another kind."""


class DataError(ClkdError):
    """A data set, bag or annotation on disk cannot be used as it stands."""


class FrameError(ClkdError):
    """One camera set, odometry sample or decision is unusable; the next one may be fine."""


class ScoresError(FrameError):
    """What a model made of a frame are no probabilities: the model's fault, not the frame's."""
