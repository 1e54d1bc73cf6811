"""Who answers when a model is asked: a local model, a scripted one, a server; all behind one protocol."""
