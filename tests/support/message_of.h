// What an error says.
#pragma once

#include <gtest/gtest.h>

#include <string>

namespace train_sft {

// The message of the Error that the call throws; a failure of the test when it throws none.
template <typename Error, typename Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace train_sft
