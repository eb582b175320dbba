"""Makes keras.onnx, see README.md; runs where tensorflow, keras and tf2onnx are installed."""

import sys

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from keras import layers

keras.utils.set_random_seed(1)
x = inputs = layers.Input((64, 64, 3), name="picture")
for filters in (8, 16, 24):
    x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same", use_bias=True)(x)])
x = layers.AveragePooling2D(3, 2, padding="same")(x)
x = layers.Activation("swish")(x)
x = layers.GlobalAveragePooling2D()(x)
network = keras.Model(inputs, layers.Dense(3, activation="softmax", name="probabilities")(x))
draw = np.random.default_rng(2)
for layer in network.layers:
    if isinstance(layer, layers.BatchNormalization):
        shape = layer.gamma.shape
        drawn = [draw.uniform(0.5, 1.5, shape), draw.normal(0, 0.2, shape), draw.normal(0, 0.2, shape)]
        layer.set_weights([*drawn, draw.uniform(0.5, 1.5, shape)])
signature = [tf.TensorSpec((None, 64, 64, 3), tf.float32, name="picture")]
function = tf.function(lambda pictures: network(pictures, training=False), input_signature=signature)
onnx.save(tf2onnx.convert.from_function(function, input_signature=signature, opset=17)[0], sys.argv[1])
