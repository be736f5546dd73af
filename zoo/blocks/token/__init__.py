"""Token mixers: ``(B, *S, C) -> (B, *S, C)``, one file each."""
