// The program's entry; see program.h.
#include "cli/program.h"

int main(int argc, char** argv) {
  return train_sft::cli::run_program({argv + (argc > 0 ? 1 : 0), argv + argc});
}
