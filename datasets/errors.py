"""The exception tree of LHM Forge: every error that a user can fix derives from `ForgeError`."""


class ForgeError(Exception):
    """Something the user can fix; the message names the field or file, the value, and what would be legal."""


class ConfigError(ForgeError):
    """A setting is unknown, out of range or in conflict with another one."""


class AssetError(ForgeError):
    """A weight, body or clip is missing, has the wrong hash, or cannot be fetched."""


class BackendError(ForgeError):
    """A backend is unknown, its package is not installed, or its weight file is missing or of the wrong form."""


class CorpusError(ForgeError):
    """The input of curation (folder, files or manifest) is unusable as a whole."""


class VideoError(ForgeError):
    """One video cannot be decoded; curation turns it into a `Reject` with this `reason` (a stable snake_case code)."""

    def __init__(self, message: str, *, reason: str = "undecodable") -> None:
        super().__init__(message)
        self.reason = reason


class ShardError(ForgeError):
    """A shard, manifest or subset is torn, altered, or does not match its digest."""


class StorageError(ForgeError):
    """A local path or remote URI cannot be read or written: missing, forbidden, full, or not sound."""


class CheckpointError(ForgeError):
    """A checkpoint is missing, torn, or belongs to another model, body or point set."""


class BodyError(ForgeError):
    """A body model file is missing, is not in SMPL-X npz form, or does not match what it is used with."""


class ScanError(ForgeError):
    """A scan cannot be read, has no colours, or does not fit the body parameters given for it."""


class DivergenceError(ForgeError):
    """Training met a loss or gradient that is not finite; the message names the samples."""


class DeviceMemoryError(ForgeError):
    """The GPU is too small for what was asked of it; the message says what to lower."""


class PhotoError(ForgeError):
    """A photo cannot be read, or it does not show one person who can be reconstructed."""
