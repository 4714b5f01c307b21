"""LaViDa (published as `jacklishufan/lavida-*`): SigLIP tower, pooled image tokens, LLaDA or Dream backbone."""
