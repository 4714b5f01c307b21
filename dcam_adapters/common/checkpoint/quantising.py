"""Quantising the linear layers of the language model's blocks while they are loaded, with bitsandbytes."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from dcam_adapters.common.checkpoint.spreading import Places, place_of
from dcam_core.errors import ConfigurationError
from dcam_core.placement import Placement

__all__ = ["quantise_blocks", "quantised_weight"]


def quantise_blocks(model: nn.Module, blocks: str | None, placement: Placement, places: Places) -> set[str]:
    """Replaces the linear layers of the blocks, on the meta device, by bitsandbytes' own.

    8 bits: LLM.int8(), computed in half precision, columns with outliers (over 6.0) unquantised; which columns those
    are is said by all states of a forward pass together. 4 bits: NF4 in blocks of 64 with quantised scales (QLoRA),
    computed in the dtype of the hidden states.

    Args:
        model: the model, on the meta device.
        blocks: module path of the list of blocks; None: there is nothing to quantise.
        placement: the quantisation, if any.
        places: the blocks that are not on the main device.

    Returns:
        Names of the weights that are to be quantised.

    Raises:
        ConfigurationError: bitsandbytes is missing, or does not work on the devices of the blocks.
    """
    if placement.quantisation is None or blocks is None:
        return set()
    bitsandbytes = _bitsandbytes(placement)
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    container = model.get_submodule(blocks)
    for name, _ in container.named_children():
        device = place_of(f"{blocks}.{name}.", places, placement.device)
        if torch.device(device).type not in bitsandbytes.supported_torch_devices:
            raise ConfigurationError(
                f"quantisation {placement.quantisation!r}: bitsandbytes {bitsandbytes.__version__} does not work "
                f"on {device}; use another device, or leave quantisation out"
            )
    settings: Any = BitsAndBytesConfig
    replace_with_bnb_linear(container, quantization_config=settings(**_settings(placement)))
    names = set()
    for path, module in container.named_modules():
        if isinstance(module, (bitsandbytes.nn.Linear8bitLt, bitsandbytes.nn.Linear4bit)):
            names.add(f"{blocks}.{path}.weight")
            # Weights packed for AVX-512 multiply without recording a gradient, and would stay packed.
            module.support_avx512bf16_for_cpu = False
    return names


def quantised_weight(layer: nn.Module, weight: Tensor, device: torch.device | str) -> nn.Parameter:
    """A layer's weight, quantised.

    Args:
        layer: one that `quantise_blocks` made.
        weight: [out, in] floating, on the CPU: that it is moved is what makes bitsandbytes quantise it.
        device: where it goes.
    """
    empty: Any = layer.weight
    settings = {name: value for name, value in vars(empty).items() if name not in ("CB", "SCB")}
    quantised: nn.Parameter = type(empty)(weight, requires_grad=False, **settings).to(device)
    return quantised


def _settings(placement: Placement) -> dict[str, Any]:
    if placement.quantisation == "8bit":
        # It says at every call that it computes in half precision, whatever the dtype: known, and documented above.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return {"load_in_8bit": True}
    return {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


def _bitsandbytes(placement: Placement) -> Any:
    try:
        import bitsandbytes
    except (ImportError, RuntimeError, OSError) as error:  # its native library may be unusable here
        line = " ".join(str(error).split())
        raise ConfigurationError(
            f"quantisation {placement.quantisation!r} needs bitsandbytes, which cannot be imported ({line}): "
            "pip install 'dcam[quantisation]', or leave quantisation out"
        ) from error
    return bitsandbytes
