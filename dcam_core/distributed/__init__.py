"""Work on numbered things, shared out over devices and nodes by Lightning."""

from dcam_core.distributed.work import Processes, SharedWork

__all__ = ["Processes", "SharedWork"]
