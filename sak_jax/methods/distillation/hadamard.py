"""Hadamard matrices, NumPy alone: Sylvester's and Paley's constructions and their Kronecker products."""

import numpy as np
from jaxtyping import Float, Int8


def orthogonal(size: int) -> Float[np.ndarray, "size size"]:
    """An orthogonal float64 matrix that spreads each axis over all others as evenly as the size allows.

    A Hadamard matrix with rows of length 1 where one is known; else the Q of a fixed random +-1 matrix (PHI-S, section
    3.4, and RADIO's code).
    """
    signs = hadamard(size)
    if signs is not None:
        return signs / np.sqrt(size)
    return np.linalg.qr(np.random.default_rng(0).choice([-1.0, 1.0], (size, size)))[0]


def hadamard(size: int) -> Int8[np.ndarray, "size size"] | None:
    """The signs of a Hadamard matrix, or None where the constructions have none of this size.

    Sylvester's for powers of 2; else Sylvester (x) Paley with the largest power of 2 that leaves a Paley matrix.
    """
    factor = size & -size
    if factor == size:
        return _sylvester(size)
    while factor:
        other = _paley(size // factor)
        if other is not None:
            return np.kron(_sylvester(factor), other)
        factor //= 2
    return None


def _sylvester(size: int) -> Int8[np.ndarray, "size size"]:
    matrix = np.ones((1, 1), np.int8)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _paley(size: int) -> Int8[np.ndarray, "size size"] | None:
    """Paley's first construction, else the second, else None."""
    prime = size - 1
    if prime % 4 == 3 and _is_prime(prime):
        matrix = np.zeros((size, size), np.int8)
        matrix[0, 1:], matrix[1:, 0], matrix[1:, 1:] = 1, -1, _residues(prime)
        return np.eye(size, dtype=np.int8) + matrix
    prime = size // 2 - 1
    if size % 2 == 0 and prime % 4 == 1 and _is_prime(prime):
        matrix = np.zeros((size // 2, size // 2), np.int8)
        matrix[0, 1:], matrix[1:, 0], matrix[1:, 1:] = 1, 1, _residues(prime)
        zero = np.array([[1, -1], [-1, -1]], np.int8)
        one = np.array([[1, 1], [1, -1]], np.int8)
        return np.kron(matrix == 0, zero) + np.kron(matrix, one)
    return None


def _residues(prime: int) -> Int8[np.ndarray, "prime prime"]:
    """At [i, j]: 1 where i - j is a square modulo the prime, -1 where it is none, 0 on the diagonal."""
    kind = np.full(prime, -1, np.int8)
    kind[np.arange(prime) ** 2 % prime] = 1
    kind[0] = 0
    return kind[(np.arange(prime)[:, None] - np.arange(prime)) % prime]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
