// The program's entry.
#include <cstdio>

int main() {
  std::fputs("train_sft 0.1.0\n", stdout);
  return 0;
}
