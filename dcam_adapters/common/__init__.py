"""Parts that several model families share: the transformer in both key layouts, SigLIP, layouts of pictures, loading."""
