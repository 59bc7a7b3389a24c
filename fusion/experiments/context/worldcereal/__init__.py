"""Context-aware embeddings of real patches: crops from one date, a third sensor, a monthly cube, codes of few bits."""
