"""Models as llama.cpp reads them: converted, quantized, and verified against the original."""
