"""What `bench` measures inference against: `RotInv` as a compiled TensorFlow graph, float32, from cleaned stamps.

A program of its own, run by an interpreter that has tensorflow and numpy and need not have anything else:
`python tensorflow_rival.py WEIGHTS.npz STAMPS.npy THREADS SECONDS` prints stamps/s as JSON.
"""

import json
import sys
import time
from typing import Any

import numpy as np


def main() -> None:
    import tensorflow as tf

    held, stamps = np.load(sys.argv[1]), np.load(sys.argv[2])
    threads, seconds = int(sys.argv[3]), float(sys.argv[4])
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    kernels = [tf.constant(held[f"{i}.weight"]) for i in range(8)]
    biases = [tf.constant(held[f"{i}.bias"]) for i in range(8)]

    def conv(x: Any, i: int, padding: str) -> Any:
        return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernels[i], 1, padding), biases[i]))

    @tf.function(input_signature=[tf.TensorSpec([len(stamps), *stamps.shape[1:]])])
    def network(x: Any) -> Any:
        x = tf.concat([tf.image.rot90(x, turn) for turn in range(4)], 0)
        x = conv(tf.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]]), 0, "VALID")
        x = tf.nn.max_pool2d(conv(x, 1, "SAME"), 2, 2, "VALID")
        for i in (2, 3, 4):
            x = conv(x, i, "SAME")
        x = tf.transpose(tf.nn.max_pool2d(x, 2, 2, "VALID"), [0, 3, 1, 2])
        x = tf.reshape(x, [4 * len(stamps), -1])
        for i in (5, 6):
            x = tf.nn.relu(x @ kernels[i] + biases[i])
        x = tf.reduce_mean(tf.reshape(x, [4, len(stamps), -1]), 0)
        return tf.nn.softmax(x @ kernels[7] + biases[7])

    x = tf.constant(stamps)
    found = network(x).numpy()
    started, batches = time.perf_counter(), 0
    while (took := time.perf_counter() - started) < seconds:
        network(x).numpy()
        batches += 1
    print(json.dumps({"speed": batches * len(stamps) / took, "probabilities": found.tolist()}))


if __name__ == "__main__":
    main()
