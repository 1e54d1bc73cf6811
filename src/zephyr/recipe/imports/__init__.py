"""Files of other trainers, translated key by key into recipes: axolotl's and LLaMA-Factory's."""
