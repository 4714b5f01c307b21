"""LLaDA-V (published as `GSAI-ML/LLaDA-V`): SigLIP2 tower, MLP projector, masked-diffusion LLaDA."""
