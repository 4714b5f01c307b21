"""Generated scenes with exact masks: the data that the embedded models are trained and measured on."""

from dcam_plugins.scenes.coco import write_coco
from dcam_plugins.scenes.scenes import Scene, SceneError, SceneObject, Scenes, describe

__all__ = ["Scene", "SceneError", "SceneObject", "Scenes", "describe", "write_coco"]
