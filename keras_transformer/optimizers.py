"""The optimizer (5.3)."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_transformer.schedules import InverseSquareRootSchedule, check_warmup_steps
from keras_transformer.tensors import Shape, Tensor

# A learning rate; or, for TensorFlow's operation, all its shared arguments for each dtype.
Rate: TypeAlias = Tensor | dict[str, Any]


@keras.saving.register_keras_serializable(package="keras_transformer")
class Adam(keras.optimizers.Adam):
    """Keras' Adam, which on TensorFlow updates each variable with one operation.

    Keras builds an update from about fifteen operations, each of which passes over the variable.
    TensorFlow has a kernel that computes the same in one pass; on JAX the compiler fuses Keras'
    operations. Slots, arguments and config are those of `keras.optimizers.Adam`, plus the
    following.

    With `gradient_accumulation_steps`, a schedule counts updates, as Adam does; Keras' own counts
    accumulated batches.

    With `ema_decay`, `averages` holds a moving average of each variable, ordered as the variables
    that the optimizer was built with; training never reads it. After t updates

        average = sum over k from 1 to t of d**(t - k) * variable_k / sum over k of d**(t - k)

    so values before the first update have no weight. Unlike with Keras' `use_ema`, the average
    moves once per update, whatever `gradient_accumulation_steps` and however often fit is called,
    and fit does not end by copying it to the weights: see `averaging` and
    `callbacks.AveragedWeights`.
    Every variable must have a gradient.

    With `clip_norm`, the gradient g of an update is scaled to

        g * clip_norm / max(clip_norm, norm of g)

    where g covers all variables, all accumulated batches and all devices of the update.
    Keras' `global_clipnorm` clips each device's part separately.

    With `track_gradient_norm`, the variable `gradient_norm` holds the Euclidean norm of the last
    update's gradient, over all variables together and before clipping (on several devices, after
    Keras' own options have clipped each part). It is not one of `variables`, so saved files stay
    the same. On backends other than TensorFlow, it is None.

    Float16 variables have float32 slots and are updated in float32: float16 can hold neither the
    squares of gradients nor the paper's epsilon, and would divide 0 by 0.

    Source: Kingma and Ba 2015, the formulation before section 2.1, as in Keras; the average is that
    of section 7.2, with bias correction.

    Args:
        ema_decay: d of the average, above 0 and below 1; None for no average.
        track_gradient_norm: Whether to keep the norm of each update's gradient.
        clip_norm: The largest norm of an update's gradient, above 0; None for no limit.

    Other arguments are those of `keras.optimizers.Adam`.

    Raises:
        ValueError: If `ema_decay` or `clip_norm` is out of its range.

    Example:
        model.compile(optimizer=Adam(1e-3, beta_2=0.98, epsilon=1e-9), loss=...)
    """

    def __init__(
        self,
        *args: Any,
        ema_decay: float | None = None,
        track_gradient_norm: bool = False,
        clip_norm: float | None = None,
        **kwargs: Any,
    ) -> None:
        if clip_norm is not None and not 0 < clip_norm < math.inf:
            raise ValueError(
                f"clip_norm must be above 0 and finite. Received: clip_norm={clip_norm}. Choose"
                " 1.0, for example, or None."
            )
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(
                f"ema_decay must be above 0 and below 1. Received: ema_decay={ema_decay}. Choose"
                " 0.999, for example, or None."
            )
        super().__init__(*args, **kwargs)
        self.ema_decay = ema_decay
        self.track_gradient_norm = track_gradient_norm
        self.clip_norm = clip_norm
        self.averages: list[keras.Variable] = []
        self.gradient_norm: Tensor | None = None

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        # fit builds the optimizer while tracing a step, where each variable would add a graph for
        # its initial value, which takes seconds for a model of many layers.
        with _outside_of_graphs():
            super().build(variables)
            if self.ema_decay is not None:
                self.averages = self.add_optimizer_variables(variables, "average")
            if self.track_gradient_norm and keras.backend.backend() == "tensorflow":
                self.gradient_norm = _number_of_each_device()

    def add_variable(
        self,
        shape: Shape,
        initializer: str | keras.initializers.Initializer = "zeros",
        dtype: str | None = None,
        name: str | None = None,
        **more: Any,
    ) -> keras.Variable:
        if _is_float16(dtype) and str(name).endswith(("_momentum", "_velocity")):
            dtype = "float32"
        return super().add_variable(shape, initializer, dtype=dtype, name=name, **more)

    def _get_current_learning_rate(self) -> Tensor:
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "ema_decay": self.ema_decay,
            "track_gradient_norm": self.track_gradient_norm,
            "clip_norm": self.clip_norm,
        }

    def _backend_update_step(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[Tensor], learning_rate: Tensor
    ) -> None:
        if self._updates_by_one_operation():
            # Computed once for all variables: twenty more operations for each would delay the
            # first step of a model of many layers by a second or two.
            dtypes = {keras.backend.standardize_dtype(v.dtype) for v in trainable_variables}
            learning_rate = {
                dtype: learning_rate if _is_float16(dtype) else self._shared(dtype, learning_rate)
                for dtype in dtypes
            }
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: Rate) -> None:
        if self._accumulates_on_replicas():
            self._accumulate(gradient, variable, learning_rate)
        else:
            self._update(gradient, variable, learning_rate)

    def _update(self, gradient: Tensor, variable: Tensor, learning_rate: Rate) -> None:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if isinstance(learning_rate, dict):
            learning_rate = learning_rate[dtype]
        if _is_float16(dtype) and not self.amsgrad:
            self._update_in_float32(gradient, variable, learning_rate)
        elif self._updates_by_one_operation():
            self._update_by_one_operation(gradient, variable, learning_rate)
        else:
            super().update_step(gradient, variable, learning_rate)
        if self.ema_decay is not None:
            self._update_average(variable, self.ema_decay)

    def _updates_by_one_operation(self) -> bool:
        return keras.backend.backend() == "tensorflow" and not self.amsgrad

    def _accumulates_on_replicas(self) -> bool:
        """Whether several replicas of `tf.distribute` accumulate gradients."""
        if keras.backend.backend() != "tensorflow" or not self.gradient_accumulation_steps:
            return False
        return self._distribution_strategy.num_replicas_in_sync > 1

    def _backend_apply_gradients(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[Tensor]
    ) -> None:
        if not self._accumulates_on_replicas():
            super()._backend_apply_gradients(grads, trainable_variables)
            return
        if self.clipnorm or self.clipvalue or self.global_clipnorm or self.weight_decay:
            raise ValueError(
                "clipnorm, clipvalue, global_clipnorm and weight_decay must be None when several"
                " replicas accumulate gradients. Received: at least one that is not None. Leave it"
                " out, or set gradient_accumulation_steps=None."
            )
        # Keras puts the whole update under a condition, where TensorFlow allows no sum over
        # replicas. So the replicas sum each batch, and each variable has its own condition.
        self._backend_update_step(grads, trainable_variables, self.learning_rate)

    def _accumulate(self, gradient: Tensor, variable: Tensor, learning_rate: Rate) -> None:
        """Adds a gradient to the accumulated ones; the last one triggers the update."""
        import tensorflow as tf

        steps = self.gradient_accumulation_steps
        accumulated = self._accumulated_gradients[self._get_variable_index(variable)].value
        total = accumulated + tf.convert_to_tensor(gradient)

        def update() -> Tensor:
            self._update(total / steps, variable, learning_rate)
            return accumulated.assign(tf.zeros_like(total), read_value=False)

        def accumulate() -> Tensor:
            return accumulated.assign(total, read_value=False)

        tf.cond((self._iterations.value + 1) % steps == 0, update, accumulate)

    def _shared(self, dtype: str, learning_rate: Tensor) -> dict[str, Tensor]:
        """Returns the arguments of TensorFlow's operation that all variables share."""
        import tensorflow as tf

        beta_1, beta_2 = tf.cast(self.beta_1, dtype), tf.cast(self.beta_2, dtype)
        step = tf.cast(self.iterations + 1, dtype)
        return {
            "beta1_power": tf.pow(beta_1, step),
            "beta2_power": tf.pow(beta_2, step),
            "lr": tf.cast(learning_rate, dtype),
            "beta1": beta_1,
            "beta2": beta_2,
            "epsilon": tf.cast(self.epsilon, dtype),
        }

    def _update_by_one_operation(
        self, gradient: Tensor, variable: Tensor, shared: dict[str, Tensor]
    ) -> None:
        import tensorflow as tf

        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            grad=tf.cast(tf.convert_to_tensor(gradient), variable.dtype),
            **shared,
        )

    def _update_in_float32(self, gradient: Tensor, variable: Tensor, learning_rate: Tensor) -> None:
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        gradient = ops.cast(_dense(gradient), "float32")
        step = ops.cast(self.iterations + 1, "float32")
        self.assign_add(m, (1 - self.beta_1) * ops.subtract(gradient, m))
        self.assign_add(v, (1 - self.beta_2) * ops.subtract(ops.square(gradient), v))
        rate = ops.cast(learning_rate, "float32")
        rate = (
            rate * ops.sqrt(1 - ops.power(self.beta_2, step)) / (1 - ops.power(self.beta_1, step))
        )
        update = rate * ops.divide(m, ops.add(ops.sqrt(v), self.epsilon))
        self.assign_sub(variable, ops.cast(update, variable.dtype))

    def _update_average(self, variable: Tensor, decay: float) -> None:
        average = self.averages[self._get_variable_index(variable)]
        # The newest value's share, (1 - d) / (1 - d**t), without losing digits in 1 - d**t.
        log_decay = math.log(decay)
        update = ops.cast(self.iterations + 1, variable.dtype)
        share = math.expm1(log_decay) / ops.expm1(log_decay * update)
        self.assign_add(average, ops.multiply(share, ops.subtract(variable, average)))

    # Keras calls the next two methods with the gradients of an update, the second on TensorFlow
    # only. On several devices, the first gets only the gradients of its own device.

    def _clip_gradients(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        if self._needs_norm() and self._num_devices() == 1:
            # Otherwise a sparse gradient would be made dense twice.
            gradients = [_dense(gradient) for gradient in gradients]
            scale = self._scale_of_clipping(gradients)
            if scale is not None:
                gradients = [gradient * ops.cast(scale, gradient.dtype) for gradient in gradients]
        return super()._clip_gradients(gradients)

    def _all_reduce_sum_gradients(
        self, gradients_and_variables: Sequence[tuple[Tensor, Tensor]]
    ) -> Sequence[tuple[Tensor, Tensor]]:
        if self._num_devices() == 1:
            return gradients_and_variables
        pairs = super()._all_reduce_sum_gradients(gradients_and_variables)
        if not self._needs_norm():
            return pairs
        pairs = [(_dense(gradient), variable) for gradient, variable in pairs]
        sums = [self._with_accumulated(gradient, variable) for gradient, variable in pairs]
        steps = self.gradient_accumulation_steps or 1
        scale = self._scale_of_clipping(sums, steps)
        if scale is None:
            return pairs
        # The last gradient of an update removes the excess of the sum.
        is_last = (self._iterations.value + 1) % steps == 0
        excess = ops.where(is_last, scale - 1, 0.0)
        return [
            (gradient + ops.cast(excess, gradient.dtype) * total, variable)
            for (gradient, variable), total in zip(pairs, sums, strict=True)
        ]

    def _with_accumulated(self, gradient: Tensor, variable: Tensor) -> Tensor:
        """Returns the sum of an update's gradients so far."""
        if not self._accumulates_on_replicas():
            return gradient
        accumulated = self._accumulated_gradients[self._get_variable_index(variable)]
        return gradient + ops.convert_to_tensor(accumulated)

    def _num_devices(self) -> int:
        """Returns the number of replicas that each have a part of the gradient; 1 on JAX."""
        if keras.backend.backend() != "tensorflow":
            return 1
        return self._distribution_strategy.num_replicas_in_sync

    def _needs_norm(self) -> bool:
        return self.gradient_norm is not None or self.clip_norm is not None

    def _scale_of_clipping(self, gradients: Sequence[Tensor], steps: int = 1) -> Tensor | None:
        """Records the norm of gradients / steps; returns the factor that clips them, or None."""
        norm = _global_norm(gradients) / steps
        if self.gradient_norm is not None:
            self.gradient_norm.assign(norm)
        if self.clip_norm is None:
            return None
        return self.clip_norm / ops.maximum(norm, self.clip_norm)


def _dense(gradient: Tensor) -> Tensor:
    """Makes a gradient dense; only TensorFlow has sparse ones."""
    if keras.backend.backend() != "tensorflow":
        return gradient
    import tensorflow as tf

    return tf.convert_to_tensor(gradient)


def _global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Returns the Euclidean norm of all gradients together, Float32 ()."""
    if keras.backend.backend() != "tensorflow":
        squares = [ops.sum(ops.square(ops.cast(gradient, "float32"))) for gradient in gradients]
        return ops.sqrt(sum(squares))
    import tensorflow as tf

    squares = [tf.nn.l2_loss(tf.cast(gradient, "float32")) for gradient in gradients]
    return tf.sqrt(2 * tf.add_n(squares))


def _outside_of_graphs() -> contextlib.AbstractContextManager[None]:
    """Returns a context that creates variables at once; under a strategy, an empty one."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return contextlib.nullcontext() if tf.distribute.has_strategy() else tf.init_scope()


def _number_of_each_device() -> Tensor:
    """Makes a TensorFlow variable with a value per device; reading gives the first one."""
    import tensorflow as tf

    return tf.Variable(
        0.0,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        name="gradient_norm",
    )


def _is_float16(dtype: Any) -> bool:
    return dtype is not None and keras.backend.standardize_dtype(dtype) == "float16"


def _handle(variable: Tensor) -> Tensor:
    """Returns the handle of a TensorFlow variable, or of the one inside a Keras variable."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


def paper_adam(
    model_dim: int,
    warmup_steps: int = 4000,
    scale: float = 1.0,
    clip_norm: float | None = None,
) -> Adam:
    """Returns the paper's optimizer: Adam with a rate that depends on the width of the model.

        rate(step) = scale * model_dim**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)

    Source: section 5.3, equation 3; beta_1 0.9, beta_2 0.98, epsilon 1e-9.

    Args:
        model_dim: d_model, at least 1.
        warmup_steps: Updates until the peak, at least 1.
        scale: A factor on the rate, above 0; 1 in the paper.
        clip_norm: The largest norm of an update's gradient, above 0; None, as in the paper, for no
            limit.

    Raises:
        ValueError: If `model_dim` or `warmup_steps` is below 1, or `scale` or `clip_norm` is not
            above 0.

    Example:
        model.compile(optimizer=paper_adam(config.model_dim), loss=...)
    """
    if not model_dim >= 1:
        raise ValueError(
            f"model_dim must be at least 1. Received: model_dim={model_dim}. Pass the width of the"
            " model, config.model_dim."
        )
    if not scale > 0:
        raise ValueError(
            f"scale must be above 0. Received: scale={scale}. Choose 1 for the paper's rate."
        )
    check_warmup_steps(warmup_steps)
    schedule = InverseSquareRootSchedule(
        peak_learning_rate=scale * model_dim**-0.5 * warmup_steps**-0.5,
        warmup_steps=warmup_steps,
    )
    return Adam(schedule, beta_1=0.9, beta_2=0.98, epsilon=1e-9, clip_norm=clip_norm)
