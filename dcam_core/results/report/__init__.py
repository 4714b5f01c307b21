"""Pictures and pages made from an `Explanation`: `overlay` draws, `html` writes the report."""
