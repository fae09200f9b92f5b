# flux_add_simd_variants(target folder): compiles each source of the folder once for each instruction set, with
# -DFLUX_SIMD=NAME as the namespace, and adds the objects to whatever links the target (an object library). Which one runs is
# decided at run time by csrc/cpu.
#
# Such a source must not emit inline functions with linkage (std:: templates that are not inlined): the linker keeps one copy of
# those, and the copy with AVX-512 in it would then run everywhere. scripts/check-binary.mjs looks for that.

function(flux_add_simd_variants target folder)
  file(GLOB sources CONFIGURE_DEPENDS ${folder}/*.cc)
  if(NOT sources)
    return()
  endif()
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(variants baseline avx2 avx512)
  else()
    set(variants baseline)
  endif()
  set(flags_baseline)  # SSE2 on x86-64, NEON on aarch64
  set(flags_avx2 -mavx2 -mfma -mf16c)
  set(flags_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c)
  foreach(variant IN LISTS variants)
    add_library(flux_simd_${variant} OBJECT ${sources})
    target_compile_definitions(flux_simd_${variant} PRIVATE FLUX_SIMD=${variant})
    target_compile_options(flux_simd_${variant} PRIVATE ${flags_${variant}})
    target_link_libraries(flux_simd_${variant} PRIVATE flux_options)
    target_sources(${target} INTERFACE $<TARGET_OBJECTS:flux_simd_${variant}>)
  endforeach()
endfunction()
