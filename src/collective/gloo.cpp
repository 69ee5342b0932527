// torch's c10d with Gloo, for processes on CPUs. Gloo's code is inside LibTorch; its headers come
// from Debian's libgloo-dev, which is older, so this file uses no class of Gloo itself and of
// c10d's only what these headers cannot change: factories, constructors, Backend's virtual
// functions.
#include "train_sft/base/error.h"
#include "train_sft/collective/join.h"

#ifdef TRAIN_SFT_GLOO

#include <c10/util/Logging.h>

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "collective/c10d_collective.h"
#include "collective/own_address.h"

namespace train_sft {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Gloo = c10d::ProcessGroupGloo;

std::shared_ptr<::gloo::transport::Device> device_of(const ProcessPlace& place) {
  const auto interface = environment_variable("GLOO_SOCKET_IFNAME");
  if (interface && !interface->empty())
    return Gloo::createDeviceForInterface(interface->substr(0, interface->find(',')));
  const bool one_machine = place.local_world_size == place.world_size;
  return Gloo::createDeviceForHostname(one_machine ? "127.0.0.1"
                                                   : own_address_towards(place.master_addr));
}

C10dCollective::BetweenHosts gloo(const ProcessPlace& place, milliseconds timeout) {
  return [place, timeout](const c10::intrusive_ptr<c10d::Store>& store) {
    auto options = Gloo::Options::create(timeout);
    options->devices.push_back(device_of(place));
    return c10::make_intrusive<Gloo>(store, place.rank, place.world_size, options);
  };
}

}  // namespace

bool has_gloo() {
  return true;
}

std::unique_ptr<Collective> join_processes(const ProcessPlace& place, seconds timeout) {
  // c10d warns of each lost connection with a stack trace; what is lost is said by the error.
  if (!environment_variable("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = c10::GLOG_ERROR;
  try {
    return std::make_unique<C10dCollective>(place, timeout, gloo(place, timeout));
  } catch (const std::exception& error) {
    throw ResourceError(
        "rank {} of {}: the processes of the run could not meet at {}:{} within {} s: {}. Check "
        "that "
        "all of them are started, and that the address (MASTER_ADDR, MASTER_PORT) can be reached "
        "from every machine (GLOO_SOCKET_IFNAME names the network interface)",
        place.rank, place.world_size, place.master_addr, place.master_port, timeout.count(),
        short_reason(error.what()));
  }
}

}  // namespace train_sft

#else  // TRAIN_SFT_GLOO

namespace train_sft {

bool has_gloo() {
  return false;
}

std::unique_ptr<Collective> join_processes(const ProcessPlace& place, std::chrono::seconds) {
  throw UsageError(
      "this is process {} of {}, but the program was built without Gloo; install libgloo-dev "
      "(scripts/setup.sh does), run cmake again and build",
      place.rank, place.world_size);
}

}  // namespace train_sft

#endif  // TRAIN_SFT_GLOO
