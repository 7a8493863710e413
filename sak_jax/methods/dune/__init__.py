"""DUNE: one encoder from teachers of different kinds (Sariyildiz et al., CVPR 2025), and UNIC's student (ECCV 2024)."""
