"""What the CPU is, where the faster of two equal forms depends on it. Asked at import: no thread is started by it."""

import torch

_CAN = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}

# Instructions that AMD alone has: Intel's library of products is slow there in fp32. Where nobody can tell, as there.
AMD = bool(_CAN.get("sse4a", True))
AMX = bool(_CAN.get("amx_bf16"))  # matrix instructions for bf16, which torch's fused attention uses
