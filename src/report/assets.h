// Files of src/report/page as strings; cmake/ReportAssets.cmake makes them.
#pragma once

namespace train_sft::page_assets {

extern const char* const kStyle;
extern const char* const kCharts;

}  // namespace train_sft::page_assets
