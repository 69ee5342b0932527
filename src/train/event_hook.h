// on_event: a person's own command, run at what happens in a run.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "train_sft/base/json.h"

namespace train_sft {

// Runs `/bin/sh -c command` for each event, beside training: the event as one line of JSON on its
// standard input and in the environment variable TRAIN_SFT_EVENT; what it prints goes to stderr.
// A command that fails is a warning and never ends a run.
class EventHook {
 public:
  explicit EventHook(std::string command);  // "": nothing is run
  ~EventHook();                             // waits, for some seconds, for those still running
  EventHook(const EventHook&) = delete;
  EventHook& operator=(const EventHook&) = delete;

  void send(const Json& event);

 private:
  void reap();

  std::string command_;
  std::vector<pid_t> running_;
};

}  // namespace train_sft
