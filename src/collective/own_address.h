// By which address of this machine another reaches it.
#pragma once

#include <string>

namespace train_sft {

// The address that packets to `host` leave from; where that is a loopback address (a machine's own
// name often means one) the first of an interface that is up. Throws ResourceError.
std::string own_address_towards(const std::string& host);

}  // namespace train_sft
