# project_settings: the warnings, sanitizers and include root that every target of ours carries.
add_library(project_settings INTERFACE)
target_include_directories(project_settings INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(project_settings INTERFACE _GNU_SOURCE _FILE_OFFSET_BITS=64)
target_compile_options(project_settings INTERFACE
  -Wall -Wextra -Werror -Wshadow -Wpointer-arith $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes>
  $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes> -Wcast-qual -Wvla
  -Wwrite-strings -Wno-missing-field-initializers -Wformat=2 -Wundef -fno-common -fstack-protector-strong
  # Sums must not depend on what the compiler fuses: the same prompt gives the same bits in every build.
  -ffp-contract=off)
if(CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT ROUSE_SANITIZE)
  target_compile_definitions(project_settings INTERFACE _FORTIFY_SOURCE=2)
endif()
if(ROUSE_SANITIZE)
  target_compile_options(project_settings INTERFACE -fsanitize=${ROUSE_SANITIZE} -fno-sanitize-recover=all
                         -fno-omit-frame-pointer -g)
  target_link_options(project_settings INTERFACE -fsanitize=${ROUSE_SANITIZE})
endif()
# Asserts state what our own arithmetic promises, in every build type.
string(REPLACE "-DNDEBUG" "" CMAKE_C_FLAGS_RELEASE "${CMAKE_C_FLAGS_RELEASE}")
string(REPLACE "-DNDEBUG" "" CMAKE_C_FLAGS_RELWITHDEBINFO "${CMAKE_C_FLAGS_RELWITHDEBINFO}")
string(REPLACE "-O3" "-O2" CMAKE_C_FLAGS_RELEASE "${CMAKE_C_FLAGS_RELEASE}")
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
find_package(Threads REQUIRED)
target_link_libraries(project_settings INTERFACE Threads::Threads m)
