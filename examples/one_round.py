"""Federated averaging by hand: Algorithm 1 of its paper, round by round.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of
Deep Networks from Decentralized Data", AISTATS 2017. The names are the paper's: K
clients indexed by k, a fraction C of them in a round, E local epochs, batches of B,
learning rate eta; P_k are the n_k samples of client k. Run it: `python one_round.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_sim import models
from fedjax_sim.contracts.client import Batch
from fedjax_sim.data.digits import load_digits
from fedjax_sim.data.normalize import normalization, normalize
from fedjax_sim.data.partition import random_equal
from fedjax_sim.round.training import batch_gradient

K, C, E, B, eta = 20, 0.5, 2, 16, 0.1

data = load_digits()
scale = normalization("half", 1)
x = normalize(jnp.asarray(data.train_images), scale)  # f32 [samples, H, W, 1]
y = jnp.asarray(data.train_labels)
P = random_equal(data.train_labels, num_clients=K, seed=0)  # P.indices[k] is P_k
model = models.build("mlp", num_classes=10, image_shape=x.shape[1:], width=32)
gradient = batch_gradient(model, None)


def client_update(key, k, w):
    """ClientUpdate(k, w): E epochs of SGD over the full batches of P_k."""
    P_k = jnp.asarray(P.indices)[k]
    for epoch_key in jax.random.split(key, E):
        batches = jax.random.permutation(epoch_key, P_k)[: len(P_k) // B * B]

        def step(w, b):
            batch = Batch(x[b], y[b], jnp.ones(B, bool))
            _, _, grad_loss = gradient(w, {}, batch)
            return jax.tree.map(lambda w, g: w - eta * g, w, grad_loss), None

        w, _ = jax.lax.scan(step, w, batches.reshape(-1, B))
    return w


@jax.jit
def one_round(key, w):
    """Server executes: w_t -> w_{t+1}."""
    choose, train = jax.random.split(key)
    m = max(int(C * K), 1)
    S_t = jax.random.choice(choose, K, (m,), replace=False)
    keys = jax.random.split(train, m)
    w_k = jax.vmap(client_update, (0, 0, None))(keys, S_t, w)  # all k in S_t at once
    n_k = jnp.asarray(P.counts)[S_t]
    return jax.tree.map(lambda w: jnp.tensordot(n_k / n_k.sum(), w, 1), w_k)


def accuracy(w):
    """Of the test images, in percent."""
    logits, _ = model.apply(w, {}, normalize(data.test_images, scale), train=False)
    return float(100 * np.mean(np.argmax(logits, 1) == data.test_labels))


if __name__ == "__main__":
    w, _ = model.init(jax.random.key(0))  # initialize w_0
    for t in range(1, 21):
        w = one_round(jax.random.key(t), w)
        print(f"round {t}: {accuracy(w):.1f} % of the test images are right")
