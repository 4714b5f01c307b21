"""Parts that several model families share: LLaMA-style blocks, the SigLIP tower, any-resolution geometry."""
