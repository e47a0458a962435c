"""TensorFlow Serving's messages for warm-up requests, without TensorFlow Serving's package.

Serving reads them from a TFRecord file in each version. Only the fields that requests need are
declared here, and a TensorProto is kept as serialized bytes.

Source: tensorflow_serving/apis/prediction_log.proto, predict.proto and model.proto.
"""

import functools

# The file of the requests, relative to the folder of a version.
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

# A protocol buffer's map is a list of entries with a key and a value.
_MESSAGES = """
name: "prediction_log.proto" syntax: "proto3"
message_type { name: "ModelSpec"
  field { name: "name" number: 1 type: TYPE_STRING }
  field { name: "signature_name" number: 3 type: TYPE_STRING } }
message_type { name: "Input"
  field { name: "key" number: 1 type: TYPE_STRING }
  field { name: "value" number: 2 type: TYPE_BYTES } }
message_type { name: "PredictRequest"
  field { name: "model_spec" number: 1 type: TYPE_MESSAGE type_name: "ModelSpec" }
  field { name: "inputs" number: 2 type: TYPE_MESSAGE type_name: "Input" label: LABEL_REPEATED } }
message_type { name: "PredictLog"
  field { name: "request" number: 1 type: TYPE_MESSAGE type_name: "PredictRequest" } }
message_type { name: "PredictionLog"
  field { name: "predict_log" number: 6 type: TYPE_MESSAGE type_name: "PredictLog" } }
"""


@functools.cache
def prediction_log_class() -> type:
    """Returns the class of PredictionLog messages."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    # Not the default pool, which may hold those of tensorflow-serving-api.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_MESSAGES, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("PredictionLog"))
