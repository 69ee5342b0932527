// The fake device as what torch keeps for devices that it does not know.
#include "support/fake_device.h"

namespace train_sft::fake_device {

constinit const c10::DeviceType kType = c10::DeviceType::PrivateUse1;
c10::Device kDevice{kType, 0};

}  // namespace train_sft::fake_device
