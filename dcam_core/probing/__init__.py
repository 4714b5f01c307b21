"""From a recorded answer to raw maps: what to explain, which state to replay, and where the evidence lies."""
