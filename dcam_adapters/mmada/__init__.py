"""MMaDA: a picture becomes codes of a lookup-free quantiser, which the language model reads as tokens."""
