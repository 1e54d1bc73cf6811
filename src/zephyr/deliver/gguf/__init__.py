"""Models as llama.cpp reads them: converted, quantised, and proven to say what they said before."""
