"""CLIP as the teacher: photos become view embeddings in a store, and the store becomes pseudo labels."""
