"""LLaDA-V's prompt: that of `dcam_adapters.common.prompt`, whose default format is LLaDA's (spec, section 6)."""

from dcam_adapters.common.prompt import IMAGE, IMAGE_PLACEHOLDER_ID, chat

__all__ = ["IMAGE", "IMAGE_PLACEHOLDER_ID", "chat"]
