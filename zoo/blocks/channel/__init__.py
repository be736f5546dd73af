"""Channel mixers: they act on the last dimension alone, one file each."""
