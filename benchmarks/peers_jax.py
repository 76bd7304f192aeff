"""DeepHeart in JAX: its LSTMs as `lax.scan`, and as Keras layers on the JAX backend."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from benchmarks.peers_torch import CONVOLUTION, DROPOUT, KERNELS, LAYERS, UNITS, Batch, Weights

Tree = dict[str, Any]


def bce(score: Any, targets: Any) -> Any:
    """Return the mean cross-entropy over known targets."""
    known = ~jnp.isnan(targets)
    values = jnp.nan_to_num(targets)
    each = jnp.maximum(score, 0) - score * values + jnp.log1p(jnp.exp(-jnp.abs(score)))
    return (each * known).sum() / jnp.maximum(known.sum(), 1)


class ScanTraining:
    """Each LSTM layer one `lax.scan` over both directions at once, the input product of all steps made before it."""

    def __init__(self, weights: Weights, channels: int, outputs: int) -> None:  # noqa: ARG002
        weights = {name: np.asarray(value) for name, value in weights.items()}

        def both(layer: int, kind: str) -> Any:
            return np.stack([weights[f"lstm.{way}.{layer}.{kind}_l0"] for way in ("ahead", "back")])

        self.state: Tree = {
            "convolutions": [
                (weights[f"convolutions.{i}.weight"], weights[f"convolutions.{i}.bias"]) for i in range(len(KERNELS))
            ],
            "lstm": [
                (both(i, "weight_ih").transpose(0, 2, 1), both(i, "weight_hh").transpose(0, 2, 1),
                 both(i, "bias_ih") + both(i, "bias_hh"))
                for i in range(LAYERS)
            ],
            "head": (weights["head.weight"][:, :, 0].T, weights["head.bias"]),
        }  # fmt: skip
        self.state = jax.tree.map(jnp.asarray, self.state)
        first, second = (jax.tree.map(jnp.zeros_like, self.state) for _ in range(2))
        self.moments = (first, second, jnp.zeros(()))
        self.key = jax.random.key(0, impl="rbg")  # JAX's default takes longer
        self._step = jax.jit(scan_step, donate_argnums=(0, 1))

    def step(self, batch: Batch) -> None:
        self.state, self.moments = self._step(self.state, self.moments, *arrays(batch), self.key)
        jax.block_until_ready(self.state)

    def check(self, batch: Batch) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        inputs, lengths, targets = arrays(batch)
        gradient = jax.jit(jax.grad(scan_loss))(self.state, inputs, lengths, targets)
        score = jax.jit(scan_network)(self.state, inputs, lengths)
        return np.asarray(score), np.asarray(gradient["convolutions"][0][0])


def arrays(batch: Batch) -> tuple[Any, Any, Any]:
    return batch["inputs"], batch["lengths"].astype(np.int32), batch["targets"]


def scan_network(state: Tree, inputs: Any, lengths: Any, key: Any = None) -> Any:
    """Return the scores [batch, output]; with dropout if there is a key."""
    keys = iter([] if key is None else jax.random.split(key, len(KERNELS) + LAYERS))

    def dropped(values: Any) -> Any:
        if key is None:
            return values
        return jnp.where(jax.random.bernoulli(next(keys), 1 - DROPOUT, values.shape), values / (1 - DROPOUT), 0.0)

    time = inputs.shape[1]
    mask = (jnp.arange(time) < lengths[:, None])[:, :, None].astype(inputs.dtype)
    hidden = inputs
    for i, ((weight, bias), size) in enumerate(zip(state["convolutions"], KERNELS, strict=True)):
        out = jax.lax.conv_general_dilated(
            hidden, weight, (1,), [((size - 1) // 2, size // 2)], dimension_numbers=("NHC", "OIH", "NHC")
        )
        out = dropped(jax.nn.leaky_relu(out + bias))
        hidden = (hidden + out if i else out) * mask
    step = jnp.arange(time)[:, None]
    flip = jnp.where(step < lengths, lengths - 1 - step, step)[:, :, None]
    hidden = hidden.transpose(1, 0, 2)
    for w_in, w_hidden, bias in state["lstm"]:
        ways = jnp.stack([hidden, jnp.take_along_axis(hidden, flip, axis=0)], axis=1)
        given = jnp.einsum("twbc,wcg->twbg", ways, w_in) + bias[:, None]
        outs = scan_lstm(given, w_hidden)
        hidden = dropped(jnp.concatenate([outs[:, 0], jnp.take_along_axis(outs[:, 1], flip, axis=0)], axis=-1))
    weight, bias = state["head"]
    steps = (hidden.transpose(1, 0, 2) @ weight + bias) * mask
    return steps.sum(axis=1) / lengths[:, None]


def scan_lstm(given: Any, w_hidden: Any) -> Any:
    """Return the outputs [time, direction, batch, unit] of both directions."""

    def cell(carry: Any, x: Any) -> Any:
        h, c = carry
        i, f, g, o = jnp.split(x + jnp.einsum("wbu,wug->wbg", h, w_hidden), 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((*given.shape[1:3], UNITS), given.dtype)
    _, outs = jax.lax.scan(cell, (zero, zero), given)
    return outs


def scan_loss(state: Tree, inputs: Any, lengths: Any, targets: Any, key: Any = None) -> Any:
    return bce(scan_network(state, inputs, lengths, key), targets)


def scan_step(state: Tree, moments: Any, inputs: Any, lengths: Any, targets: Any, key: Any) -> Any:
    """One step of AdamW, with PyTorch's constants."""
    first, second, count = moments
    gradient = jax.grad(scan_loss)(state, inputs, lengths, targets, jax.random.fold_in(key, count.astype(int)))
    count = count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)

    def moved(p: Any, m: Any, v: Any) -> Any:
        update = m / (1 - 0.9**count) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)
        return p * (1 - 1e-3 * 0.01) - 1e-3 * update

    return jax.tree.map(moved, state, first, second), (first, second, count)


class KerasTraining:
    """Keras layers, trained by `train_on_batch`; padding is masked, so that both directions read valid steps only."""

    def __init__(self, weights: Weights, channels: int, outputs: int) -> None:
        import keras

        inputs, mask = keras.Input((None, channels)), keras.Input((None, 1))
        hidden = inputs
        for i, size in enumerate(KERNELS):
            out = keras.layers.Conv1D(CONVOLUTION, size, padding="same", name=f"convolution_{i}")(hidden)
            out = keras.layers.Dropout(DROPOUT)(keras.layers.LeakyReLU(0.01)(out))
            hidden = (hidden + out if i else out) * mask
        valid = keras.ops.squeeze(mask, -1) > 0
        for i in range(LAYERS):
            layer = keras.layers.Bidirectional(keras.layers.LSTM(UNITS, return_sequences=True), name=f"lstm_{i}")
            hidden = keras.layers.Dropout(DROPOUT)(layer(hidden, mask=valid))
        steps = keras.layers.Conv1D(outputs, 1, name="head")(hidden) * mask
        score = keras.ops.sum(steps, axis=1) / keras.ops.sum(mask, axis=1)
        self.model = keras.Model([inputs, mask], score)
        optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.01, epsilon=1e-8)
        self.model.compile(optimizer, loss=lambda targets, score: bce(score, targets))
        names = [f"convolution_{i}" for i in range(len(KERNELS))]
        for name, ours in zip([*names, "head"], [*(f"convolutions.{i}" for i in range(3)), "head"], strict=True):
            weight = np.asarray(weights[f"{ours}.weight"]).transpose(2, 1, 0)
            self.model.get_layer(name).set_weights([weight, np.asarray(weights[f"{ours}.bias"])])
        for i in range(LAYERS):
            values = []
            for way in ("ahead", "back"):
                w_in, w_hidden, b_in, b_hidden = (
                    np.asarray(weights[f"lstm.{way}.{i}.{kind}_l0"])
                    for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                )
                values += [w_in.T, w_hidden.T, b_in + b_hidden]
            self.model.get_layer(f"lstm_{i}").set_weights(values)

    def step(self, batch: Batch) -> None:
        inputs, mask, targets = self._arrays(batch)
        self.model.train_on_batch([inputs, mask], targets)

    def check(self, batch: Batch) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        inputs, mask, targets = self._arrays(batch)
        fixed = [each.value for each in self.model.non_trainable_variables]

        def loss(values: Any) -> Any:
            score, _ = self.model.stateless_call(values, fixed, [inputs, mask], training=False)
            return bce(score, targets)

        gradient = jax.jit(jax.grad(loss))([each.value for each in self.model.trainable_variables])
        return np.asarray(self.model.predict_on_batch([inputs, mask])), np.asarray(gradient[0]).transpose(2, 1, 0)

    @staticmethod
    def _arrays(batch: Batch) -> tuple[Any, Any, Any]:
        steps = np.arange(batch["inputs"].shape[1])
        mask = (steps < batch["lengths"][:, None])[:, :, None].astype(np.float32)
        return batch["inputs"], mask, batch["targets"]
