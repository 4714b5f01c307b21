"""LaViDa (published as `jacklishufan/lavida-*`): SigLIP tower, pooled image tokens, LLaDA or Dream backbone.

Where the original's inference differs from its training, or does what nobody asked for, there is a switch
(numbers of the spec's section 12):

* 2, the token after a picture is lost: `drop_first_token_after_image`, off.
* 8, only the 50 most probable tokens count on Dream: `SamplerSettings.top_k`, on.
* 13, logits beyond the tokenizer are cut on Dream, kept on LLaDA: `trim_vocabulary`.
* 16, several pictures are padded: `pad_several`, on; each has the newline that training had (1).
* pooling, off for the checkpoints of stage 1 and "lowres": `pooled`, on.
"""
