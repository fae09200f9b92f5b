// The Device's methods that bring matrices from files into Buffers: hostMemory, valuesOf, gather, columnsInUse, transfer.
#include <algorithm>
#include <set>

#include "napi/arguments.h"
#include "napi/objects.h"
#include "runtime/gather.h"

namespace flux::js {
namespace {

std::shared_ptr<HostMemory> host_memory_from(const Napi::Value& value) {
  auto memory =
      unwrap_checked<HostMemoryObject>(value, environment(value.Env()).host_memory, "HostMemory")->memory();
  if (memory == nullptr) throw FluxError(code::kDisposed, "this host memory is disposed");
  return memory;
}

std::shared_ptr<ByteSource> source_from(const Napi::Value& value) {
  const Environment& classes = environment(value.Env());
  if (value.IsObject() && value.As<Napi::Object>().InstanceOf(classes.host_memory.Value()))
    return host_memory_from(value);
  auto mapping = unwrap_checked<MappingObject>(value, classes.mapping, "Mapping or HostMemory")->mapping();
  FLUX_CHECK(mapping != nullptr, "the Mapping is closed");
  return mapping;
}

DType dtype_from(const Napi::Object& object, const char* name) {
  return dtype_from_name(object.Get(name).ToString().Utf8Value());
}

// { source, begin, dtype, rows, columns }
StoredMatrix matrix_from(const Napi::Object& object) {
  return {source_from(object.Get("source")), bytes_from(object.Get("begin"), "begin"),
          dtype_from(object, "dtype"), object.Get("rows").ToNumber().Int64Value(),
          object.Get("columns").ToNumber().Int64Value()};
}

std::vector<int32_t> indices_from(const Napi::Object& object, const char* name) {
  if (!object.Has(name)) return {};
  const Napi::Value value = object.Get(name);
  FLUX_CHECK(value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_int32_array,
             std::string(name) + " must be an Int32Array");
  const auto array = value.As<Napi::Int32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

GatherRequest gather_request_from(const Napi::Object& object) {
  GatherRequest request;
  request.from = matrix_from(object.Get("from").As<Napi::Object>());
  request.rows = indices_from(object, "rows");
  request.columns = indices_from(object, "columns");
  if (object.Has("factor")) request.factor = object.Get("factor").ToNumber().FloatValue();
  request.target = host_memory_from(object.Get("target"));
  request.target_offset = bytes_from(object.Get("targetOffset"), "targetOffset");
  request.to = dtype_from(object, "to");
  if (object.Has("transposed")) request.transposed = object.Get("transposed").ToBoolean();
  return request;
}

Transfer transfer_from(const Napi::Object& object) {
  Transfer transfer;
  if (object.Has("source")) {
    transfer.source = host_memory_from(object.Get("source"));
    transfer.source_offset = bytes_from(object.Get("sourceOffset"), "sourceOffset");
  }
  const Environment& classes = environment(object.Env());
  transfer.target = unwrap_checked<MemoryObject>(object.Get("target"), classes.memory, "Memory")->memory();
  if (transfer.target->retired()) throw FluxError(code::kDisposed, "this Buffer is disposed");
  transfer.target_offset = bytes_from(object.Get("targetOffset"), "targetOffset");
  transfer.rows = bytes_from(object.Get("rows"), "rows");
  transfer.row_bytes = bytes_from(object.Get("rowBytes"), "rowBytes");
  transfer.target_stride = bytes_from(object.Get("targetStride"), "targetStride");
  for (const auto& [name, treatment] : {std::pair{"divisor", Transfer::Rows::kDivided},
                                        std::pair{"codeScales", Transfer::Rows::kQuantised}}) {
    if (!object.Has(name)) continue;
    transfer.treatment = treatment;
    transfer.scales = unwrap_checked<MemoryObject>(object.Get(name), classes.memory, "Memory")->memory();
    if (transfer.scales->retired()) throw FluxError(code::kDisposed, "this Buffer is disposed");
    transfer.scales_offset = bytes_from(object.Get("scalesOffset"), "scalesOffset");
    FLUX_CHECK(transfer.scales_offset + transfer.rows * sizeof(float) <= transfer.scales->bytes(),
               "there are more rows than scales");
  }
  const uint64_t written =
      transfer.treatment == Transfer::Rows::kQuantised ? transfer.row_bytes / 2 : transfer.row_bytes;
  FLUX_CHECK(transfer.rows > 0 && transfer.target_stride >= written, "the rows would overlap");
  const uint64_t extent = (transfer.rows - 1) * transfer.target_stride + written;
  FLUX_CHECK(transfer.target_offset + extent <= transfer.target->bytes(), "the target Memory is too small");
  return transfer;
}

template <typename Item, Item (*kFrom)(const Napi::Object&)>
std::vector<Item> list_from(const Napi::Value& value) {
  const auto array = value.As<Napi::Array>();
  std::vector<Item> items;
  items.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) items.push_back(kFrom(array.Get(i).As<Napi::Object>()));
  return items;
}

// What was queued before a failure; that it failed is known.
void finish_quietly(Backend& backend) {
  try {
    backend.finish();
  } catch (const FluxError&) {
  }
}

}  // namespace

Napi::Value DeviceObject::host_memory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto memory =
        std::make_shared<HostMemory>(async_->device()->shared_backend(), bytes_from(info[0], "bytes"));
    const Napi::Object object = environment(info.Env()).host_memory.New({});
    HostMemoryObject::Unwrap(object)->adopt(std::move(memory));
    return object;
  });
}

Napi::Value DeviceObject::values_of(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto matrices = list_from<StoredMatrix, matrix_from>(info[0]);
    return async_->enqueue_aside(info.Env(), [matrices = std::move(matrices)](ThreadPool&) -> Finish {
      return [values = flux::values_of(matrices)](Napi::Env env) -> Napi::Value {
        auto array = Napi::Float32Array::New(env, values.size());
        std::copy(values.begin(), values.end(), array.Data());
        return array;
      };
    });
  });
}

Napi::Value DeviceObject::gather(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto requests = list_from<GatherRequest, gather_request_from>(info[0]);
    return async_->enqueue_aside(info.Env(), [requests = std::move(requests)](ThreadPool& helpers) -> Finish {
      return [bad = flux::gather(requests, helpers)](Napi::Env env) -> Napi::Value {
        auto array = Napi::Float64Array::New(env, bad.size());
        for (size_t i = 0; i < bad.size(); ++i) array[i] = static_cast<double>(bad[i]);
        return array;
      };
    });
  });
}

Napi::Value DeviceObject::columns_in_use(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto object = info[0].As<Napi::Object>();
    BandsRequest request{matrix_from(object.Get("from").As<Napi::Object>()), indices_from(object, "ends")};
    return async_->enqueue_aside(info.Env(), [request = std::move(request)](ThreadPool&) -> Finish {
      return [used = flux::columns_in_use(request)](Napi::Env env) -> Napi::Value {
        auto array = Napi::Uint8Array::New(env, used.size());
        std::copy(used.begin(), used.end(), array.Data());
        return array;
      };
    });
  });
}

Napi::Value DeviceObject::transfer(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto transfers = list_from<Transfer, transfer_from>(info[0]);
    Backend* backend = &async_->device()->backend();
    return async_->enqueue(info.Env(), [backend, transfers = std::move(transfers)]() -> Finish {
      std::set<std::shared_ptr<HostMemory>> sources;  // stay until the copies are done
      for (const Transfer& transfer : transfers)
        if (transfer.source != nullptr) sources.insert(transfer.source);
      try {
        for (const Transfer& transfer : transfers) backend->transfer(transfer);
      } catch (...) {
        finish_quietly(*backend);
        throw;
      }
      return [sources = std::move(sources)](Napi::Env env) -> Napi::Value { return env.Undefined(); };
    });
  });
}

}  // namespace flux::js
