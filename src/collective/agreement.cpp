#include "train_sft/collective/agreement.h"

#include <exception>
#include <new>

#include "train_sft/base/error.h"

namespace train_sft {
namespace {

struct Failure {
  std::exception_ptr error;  // null: none
  ExitCode code = ExitCode::ok;
  std::string message;
};

Failure outcome_of(Collective& collective, const std::function<void()>& work) {
  const LongWork takes_its_time(collective);
  Failure failure;
  try {
    work();
    return failure;
  } catch (const Error& error) {
    failure = {std::current_exception(), error.code(), error.what()};
  } catch (const std::bad_alloc&) {
    failure = {std::current_exception(), ExitCode::resource, "out of memory"};
  } catch (const std::exception& error) {
    failure = {std::current_exception(), ExitCode::bug, error.what()};
  }
  return failure;
}

void in_rounds(Collective& collective, const char* name, const std::function<void()>& work,
               bool comes_first) {
  for (const bool first_round : {true, false})
    together(collective, name, [&] {
      if (comes_first == first_round) work();
    });
}

}  // namespace

void together(Collective& collective, const char* name, const std::function<void()>& work) {
  const Failure mine = outcome_of(collective, work);
  const auto coded = [&] {
    return mine.error ? static_cast<char>(mine.code) + mine.message : std::string();
  };
  const std::vector<std::string> all = collective.exchange_text(coded(), name);
  for (int rank = 0; rank < collective.size(); ++rank) {
    const std::string& said = all[static_cast<size_t>(rank)];
    if (said.empty()) continue;
    if (rank == collective.rank()) std::rethrow_exception(mine.error);
    throw Error(static_cast<ExitCode>(static_cast<unsigned char>(said[0])),
                fmt::format("rank {}: {}", rank, said.substr(1)));
  }
}

void first_rank_first(Collective& collective, const char* name, const std::function<void()>& work) {
  in_rounds(collective, name, work, collective.is_first());
}

void first_of_machine_first(Collective& collective, const char* name,
                            const std::function<void()>& work) {
  in_rounds(collective, name, work, collective.place().local_rank == 0);
}

void require_same(Collective& collective, const char* what, const std::string& value,
                  const char* remedy) {
  const std::vector<std::string> all = collective.exchange_text(value, what);
  for (size_t rank = 1; rank < all.size(); ++rank)
    if (all[rank] != all[0])
      throw UsageError("{} of rank {} is not that of rank 0 ({}, not {}); {}", what, rank,
                       all[rank], all[0], remedy);
}

}  // namespace train_sft
