package dev.loran.kernels.simd.machine;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.kernels.simd.machine.Assembler.Gp;
import dev.loran.kernels.simd.machine.Assembler.Mem;
import java.util.HexFormat;
import java.util.function.Consumer;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/// Every instruction, byte by byte as GNU as emits it (with `{disp32}` where it would shorten a displacement).
final class AssemblerTest {
    private static Arguments of(String text, String bytes, Consumer<Assembler> instruction) {
        return Arguments.of(text, bytes, instruction);
    }

    static Arguments[] instructions() {
        return new Arguments[] {
            of("vpxord zmm0, zmm0, zmm0", "62f17d48efc0", a -> a.zero(0)),
            of("vpxord zmm31, zmm31, zmm31", "62010540efff", a -> a.zero(31)),
            of("vmovups zmm9, [rdi]", "62717c48100f", a -> a.load(9, Mem.at(Gp.RDI))),
            of("vmovups zmm17, [r8+0x80]", "62c17c48108880000000", a -> a.load(17, Mem.at(Gp.R8, 0x80))),
            of("vmovups zmm2, [rbp+0]", "62f17c48109500000000", a -> a.load(2, Mem.at(Gp.RBP))),
            of("vmovups zmm2, [rsp+0x40]", "62f17c4810942440000000", a -> a.load(2, Mem.at(Gp.RSP, 0x40))),
            of("vmovups [rdi+0x40], zmm23", "62e17c4811bf40000000", a -> a.store(Mem.at(Gp.RDI, 0x40), 23)),
            of("vmovups [rdx+rcx*4], zmm5", "62f17c48112c8a", a -> a.store(Mem.at(Gp.RDX, Gp.RCX, 4), 5)),
            of("vmovups [rdi], ymm12", "62717c281127", a -> a.storeHalf(Mem.at(Gp.RDI), 12)),
            of("vpbroadcastd zmm27, [rdx+rcx*2]", "62627d48581c4a", a -> a.broadcast(27, Mem.at(Gp.RDX, Gp.RCX, 2))),
            of("vpbroadcastd zmm27, [r9+r10*8]", "62027d48581cd1", a -> a.broadcast(27, Mem.at(Gp.R9, Gp.R10, 8))),
            of("vdpbf16ps zmm23, zmm27, zmm26", "6282264052fa", a -> a.dotBf16(23, 27, 26)),
            of("vdpbf16ps zmm3, zmm4, zmm5", "62f25e4852dd", a -> a.dotBf16(3, 4, 5)),
            of("vdpbf16ps zmm8, zmm15, zmm16", "6232064852c0", a -> a.dotBf16(8, 15, 16)),
            of("vcvtneps2bf16 ymm0, [rsi]", "62f27e487206", a -> a.toBf16(0, Mem.at(Gp.RSI))),
            of("vcvtneps2bf16 ymm30, [r11]", "62427e487233", a -> a.toBf16(30, Mem.at(Gp.R11))),
            of("vcvtne2ps2bf16 zmm2, zmm1, zmm0", "62f2774872d0", a -> a.toBf16(2, 1, 0)),
            of("vcvtne2ps2bf16 zmm30, zmm9, zmm17", "6222374872f1", a -> a.toBf16(30, 9, 17)),
            of("vpermw zmm0, zmm31, zmm0", "62f285408dc0", a -> a.permuteHalves(0, 31, 0)),
            of("vpermw zmm25, zmm18, zmm9", "6242ed408dc9", a -> a.permuteHalves(25, 18, 9)),
            of("vzeroupper", "c5f877", Assembler::vzeroupper),
            of("vxorps ymm0, ymm0, ymm0", "c4e17c57c0", a -> a.zero256(0)),
            of("vxorps ymm13, ymm13, ymm13", "c4411457ed", a -> a.zero256(13)),
            of("vmovups ymm12, [r8]", "c4417c1020", a -> a.load256(12, Mem.at(Gp.R8))),
            of("vmovups ymm3, [r8+0x20]", "c4c17c109820000000", a -> a.load256(3, Mem.at(Gp.R8, 0x20))),
            of("vmovups [rdi], ymm9", "c4617c110f", a -> a.store256(Mem.at(Gp.RDI), 9)),
            of("vmovups [rdi+0x20], ymm1", "c4e17c118f20000000", a -> a.store256(Mem.at(Gp.RDI, 0x20), 1)),
            of("vbroadcastss ymm14, [rdx+rbx*1]", "c4627d18341a", a -> a.broadcast256(14, Mem.at(Gp.RDX, Gp.RBX, 1))),
            of(
                    "vbroadcastss ymm14, [rdx+rcx*4+0xc]",
                    "c4627d18b48a0c000000",
                    a -> a.broadcast256(14, Mem.at(Gp.RDX, Gp.RCX, 4, 12))),
            of("vbroadcastss ymm2, [r9+r10*8]", "c4827d1814d1", a -> a.broadcast256(2, Mem.at(Gp.R9, Gp.R10, 8))),
            of("vaddps ymm10, ymm11, [rdi]", "c461245817", a -> a.add256(10, 11, Mem.at(Gp.RDI))),
            of("vaddps ymm1, ymm2, [r8+0x20]", "c4c16c588820000000", a -> a.add256(1, 2, Mem.at(Gp.R8, 0x20))),
            of("vfmadd231ps ymm11, ymm14, ymm13", "c4420db8dd", a -> a.multiplyAdd256(11, 14, 13)),
            of("vfmadd231ps ymm0, ymm1, ymm2", "c4e275b8c2", a -> a.multiplyAdd256(0, 1, 2)),
            of("vfmadd231ps ymm7, ymm8, ymm15", "c4c23db8ff", a -> a.multiplyAdd256(7, 8, 15)),
            of("vpcmpeqd ymm15, ymm15, ymm15", "c4410576ff", a -> a.ones256(15)),
            of("vandps ymm0, ymm0, ymm15", "c4c17c54c7", a -> a.and256(0, 0, 15)),
            of("vpslld ymm1, ymm0, 0x10", "c4e17572f010", a -> a.shiftLeft256(1, 0, 16)),
            of("vpslld ymm12, ymm9, 3", "c4c11d72f103", a -> a.shiftLeft256(12, 9, 3)),
            of("prefetcht0 [rdi]", "0f180f", a -> a.prefetch(Mem.at(Gp.RDI))),
            of("prefetcht0 [rdi+0x3f]", "0f188f3f000000", a -> a.prefetch(Mem.at(Gp.RDI, 0x3f))),
            of("prefetcht0 [r8+r9*1]", "430f180c08", a -> a.prefetch(Mem.at(Gp.R8, Gp.R9, 1))),
            of(
                    "test r11, r11, jz after it, dec r11",
                    "4d85db0f840300000049ffcb",
                    a -> a.unlessZero(Gp.R11, () -> a.decrement(Gp.R11))),
            of("test rax, rax, jz after it, ret", "4885c00f8401000000c3", a -> a.unlessZero(Gp.RAX, a::ret)),
            of("ldtilecfg [rax]", "c4e2784900", a -> a.loadTileConfig(Mem.at(Gp.RAX))),
            of("ldtilecfg [r8+0x40]", "c4c278498040000000", a -> a.loadTileConfig(Mem.at(Gp.R8, 0x40))),
            of("tilerelease", "c4e27849c0", Assembler::releaseTiles),
            of("tilezero tmm0", "c4e27b49c0", a -> a.zeroTile(0)),
            of("tilezero tmm7", "c4e27b49f8", a -> a.zeroTile(7)),
            of("tileloadd tmm4, [rax+rcx*1]", "c4e27b4b2408", a -> a.loadTile(4, Mem.at(Gp.RAX, Gp.RCX, 1))),
            of("tileloadd tmm5, [r11+r10*1]", "c4827b4b2c13", a -> a.loadTile(5, Mem.at(Gp.R11, Gp.R10, 1))),
            of(
                    "tileloadd tmm7, [r8+rbx*1+0x40]",
                    "c4c27b4bbc1840000000",
                    a -> a.loadTile(7, Mem.at(Gp.R8, Gp.RBX, 1, 0x40))),
            of("tilestored [rdi+rsi*1], tmm0", "c4e27a4b0437", a -> a.storeTile(Mem.at(Gp.RDI, Gp.RSI, 1), 0)),
            of(
                    "tilestored [rbp+rsi*1+0x40], tmm3",
                    "c4e27a4b9c3540000000",
                    a -> a.storeTile(Mem.at(Gp.RBP, Gp.RSI, 1, 0x40), 3)),
            of("tilestored [r9+rsi*1], tmm6", "c4c27a4b3431", a -> a.storeTile(Mem.at(Gp.R9, Gp.RSI, 1), 6)),
            of("tdpbf16ps tmm0, tmm4, tmm6", "c4e24a5cc4", a -> a.dotTiles(0, 4, 6)),
            of("tdpbf16ps tmm3, tmm5, tmm7", "c4e2425cdd", a -> a.dotTiles(3, 5, 7)),
            of("mov rbx, 128", "48c7c380000000", a -> a.set(Gp.RBX, 128)),
            of("mov r11, 64", "49c7c340000000", a -> a.set(Gp.R11, 64)),
            of("mov r10, [rsp+24]", "4c8b942418000000", a -> a.move(Gp.R10, Mem.at(Gp.RSP, 24))),
            of("mov rax, [rbx]", "488b03", a -> a.move(Gp.RAX, Mem.at(Gp.RBX))),
            of("lea rax, [rcx+rcx*2]", "488d0449", a -> a.address(Gp.RAX, Mem.at(Gp.RCX, Gp.RCX, 2))),
            of("lea r11, [r8+r9*8]", "4f8d1cc8", a -> a.address(Gp.R11, Mem.at(Gp.R8, Gp.R9, 8))),
            of("lea rdi, [rdi+rsi*1]", "488d3c37", a -> a.address(Gp.RDI, Mem.at(Gp.RDI, Gp.RSI, 1))),
            of("mov r11, r9", "4d89cb", a -> a.move(Gp.R11, Gp.R9)),
            of("mov rax, rbx", "4889d8", a -> a.move(Gp.RAX, Gp.RBX)),
            of("add rdx, 1024", "4881c200040000", a -> a.add(Gp.RDX, 1024)),
            of("add r8, 192", "4981c0c0000000", a -> a.add(Gp.R8, 192)),
            of("dec r11", "49ffcb", a -> a.decrement(Gp.R11)),
            of("dec rdx", "48ffca", a -> a.decrement(Gp.RDX)),
            of("push rbx", "53", a -> a.push(Gp.RBX)),
            of("push r8", "4150", a -> a.push(Gp.R8)),
            of("pop r8", "4158", a -> a.pop(Gp.R8)),
            of("pop rbp", "5d", a -> a.pop(Gp.RBP)),
            of("dec rax, jnz to it", "48ffc80f85f7ffffff", a -> {
                int label = a.here();
                a.decrement(Gp.RAX);
                a.jumpIfNotZero(label);
            }),
            of("ret", "c3", Assembler::ret)
        };
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("instructions")
    void bytes(String text, String bytes, Consumer<Assembler> instruction) {
        Assembler assembler = new Assembler();
        instruction.accept(assembler);
        assertThat(HexFormat.of().formatHex(assembler.bytes())).as(text).isEqualTo(bytes);
    }
}
