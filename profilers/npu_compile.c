/* Compiles a model for an Intel NPU by OpenVINO's C interface, on Windows or Wine: npu_compile.exe MODEL PLATFORM.
 *
 * The compiler writes compileTimeScheduleTrace.json into the current folder. Without arguments the program only
 * loads the compiler. What happens is told in lines of text; the codes of its end are those of npu_compile.py.
 */
#include <stdio.h>

typedef int ov_status;
ov_status ov_core_create(void **core);
ov_status ov_core_get_property(void *core, const char *device, const char *name, char **value);
ov_status ov_core_read_model(void *core, const char *model, const char *weights, void **result);
ov_status ov_core_compile_model(void *core, void *model, const char *device, size_t words, void **result, ...);
const char *ov_get_last_err_msg(void);

static int failed(ov_status status)
{
    if (status)
        printf("%s\n", ov_get_last_err_msg());
    return status != 0;
}

int main(int count, char **words)
{
    void *core, *model, *compiled;
    char *version;

    setvbuf(stdout, NULL, _IONBF, 0);
    if (failed(ov_core_create(&core)) || failed(ov_core_get_property(core, "NPU", "NPU_COMPILER_VERSION", &version)))
        return 3;
    printf("compiler %s\n", version);
    if (count != 3)
        return 0;
    if (failed(ov_core_read_model(core, words[1], NULL, &model)))
        return 4;
    if (failed(ov_core_compile_model(core, model, "NPU", 6, &compiled, "NPU_PLATFORM", words[2], "NPU_COMPILER_TYPE",
                                     "PLUGIN", "NPU_COMPILATION_MODE_PARAMS", "enable-schedule-trace=true")))
        return 4;
    return 0;
}
