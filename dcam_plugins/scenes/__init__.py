"""Generated scenes with exact masks: the data that the embedded models are trained and measured on."""

from dcam_plugins.scenes.coco import write_coco
from dcam_plugins.scenes.kinds import AbsentScenes, ClutteredScenes, OccludedScenes, SmallScenes, TwinScenes
from dcam_plugins.scenes.rules import SceneRules
from dcam_plugins.scenes.scenes import Scene, SceneError, SceneObject, Scenes, describe

__all__ = [
    "AbsentScenes",
    "ClutteredScenes",
    "OccludedScenes",
    "Scene",
    "SceneError",
    "SceneObject",
    "SceneRules",
    "Scenes",
    "SmallScenes",
    "TwinScenes",
    "describe",
    "write_coco",
]
