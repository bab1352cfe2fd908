"""The named sizes of the transformer: S, B, L and XL of DiT (Table 1), and a miniature for two CPU cores."""

SIZES: dict[str, dict[str, int]] = {
    "S/2": {"depth": 12, "dim": 384, "num_heads": 6, "patch_size": 2},
    "B/2": {"depth": 12, "dim": 768, "num_heads": 12, "patch_size": 2},
    "L/2": {"depth": 24, "dim": 1024, "num_heads": 16, "patch_size": 2},
    "XL/2": {"depth": 28, "dim": 1152, "num_heads": 16, "patch_size": 2},
    "tiny": {"depth": 4, "dim": 128, "num_heads": 4, "patch_size": 4},
}
