"""DiffusionGemma (`transformers.DiffusionGemmaForBlockDiffusion`): block diffusion without a mask token.

An encoder reads the prompt with its pictures once and leaves keys and values behind. A decoder with the same
weights then writes the answer canvas by canvas: a canvas begins as random tokens, every step proposes a token at
every position, those that are sure enough are accepted and the others become random again. What the model
predicted at one step it reads at the next (self-conditioning). A finished canvas is appended to what the encoder
has read.

Generation is transformers' own code; it is watched from outside, never copied.
"""
