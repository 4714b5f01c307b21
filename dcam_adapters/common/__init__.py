"""Parts that several families share: the transformer in both key layouts, SigLIP, picture layouts, loading."""
